"""Rollout browser: one self-contained HTML page over the samples of a run's checkpoints. Imports no torch.

resolve    from the configuration: the checkpoints and files of each page
collect    chooses and reads the rollouts
page       packs them into `page.html` with `style.css` and `app.js`
"""
