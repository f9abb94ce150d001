"""The leaderboard: what the runs on disk say, with honest error bars.

    stats.py     intervals and paired differences that know that questions share an image
    store.py     finds run folders and gives each as arrays; reading.py reads them, index.py keeps the arrays
    browse.py    pages of questions, answers and verdicts; rows.py makes the parquet files behind them
    table.py     runs -> cells -> a terminal table or JSON
    compare.py   runs compared row by row
    page.py      the same as one self-contained HTML file to send to a colleague

Run folders are the truth: everything kept beside them (RUNS/.index, RUN/.index) is made from them and can be deleted.
"""
