"""The queue: one command that knows every training and row that is still to be made.

`plan` is the table of jobs, `engine` carries them out one after the other, `denoisers` and
`trainings` say what is left of a training and by which command lines it goes on, and `home` brings
rows and weights from the worktree where a queue works to the checkout where they are committed.
"""
