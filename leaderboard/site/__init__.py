"""The viewer: the leaderboard, its runs, their samples and their trainers as pages, served (`harness view`) or written as
files (`harness report`).

    library.py    what is on disk: runs and their cells, checkpoints and their logs; read again when it changes
    pictures.py   the pixels that a row was asked about, found in the task's data, checked and encoded anew
    pages.py      a page's name -> its HTML; the same names and templates for the server and for files
    app.py        the server: loopback or a token, a strict Content-Security-Policy, no image as it came
    export.py     the pages as one folder of files
    summary.py    the leaderboard as one file to send to a colleague

Everything that a model, a judge or a dataset wrote is hostile text: templates escape it, `text.visible` leaves nothing in it
that hides, and no script of ours ever writes HTML.
"""
