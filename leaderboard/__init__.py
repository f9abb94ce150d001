"""The leaderboard: what the runs on disk say, with honest error bars.

    stats.py     intervals and paired differences that know that questions share an image
    store.py     finds run folders and gives each as arrays; reading.py reads them, index.py keeps the arrays
    browse.py    pages of questions, answers and verdicts; rows.py makes the parquet files behind them
    cell.py      a run's rows -> a score with its interval
    table.py     which cells stand in which table, and with which rank (ranks.py)
    overview.py  models x tasks, and the average over tasks
    terminal.py  tables on the screen; formats.py as CSV, Markdown and LaTeX; exports/ for other programs
    compare.py   runs compared row by row; power.py says what rows can show at all
    claims.py    what papers report (published/*.yaml)
    importing.py others' per-sample logs -> run folders
    plots.py     pictures of these numbers
    share.py     what a report or an export to send leaves out
    site/        all of it as pages: served, or as a folder of files, or as one file

Run folders are the truth: everything kept beside them (RUNS/.index, RUN/.index) is made from them and can be deleted.
"""
