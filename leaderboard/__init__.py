"""The leaderboard: what the runs on disk say, with honest error bars.

    stats.py     intervals and paired differences that know that questions share an image
    table.py     run folders -> cells -> a terminal table or JSON; comparing two runs
    page.py      the same as one self-contained HTML file to send to a colleague

Run folders are the truth: nothing here is stored, everything is read anew.
"""
