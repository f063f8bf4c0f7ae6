"""Campaigns of faults: hostile files, damage, kills, full disks. Each case follows from a number.

verdicts.py    what may become of a case, and how a refusal must look
mutate.py      mutations of any file, from a seed
images.py videos.py tables.py exports.py   hostile inputs, and the right answer to each
damage.py      every file of a run, damaged in every way
kills.py disks.py costs.py      killed runs, full disks, huge files
attacks.py     what users and schedulers do to runs and outputs
reference.py   the undamaged runs that others are compared with
commands.py zygote.py           `patchpack …` in processes of their own, forked in milliseconds
workers.py     cases in processes with limits of time and memory
campaigns.py   the table of campaigns
table.py       the command that runs them and writes docs/reliability.md
"""
