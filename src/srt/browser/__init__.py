"""Rollout browser: one HTML page over the stored samples of a run's checkpoints, without any outside resource.

`collect` chooses and reads the rollouts, `page` packs them into `page.html` with `style.css` and `app.js`.
"""
