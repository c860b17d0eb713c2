"""Detection of outliers and of adversarial images: scores, what they are worth, and an attack that knows them.

A score is larger for more suspicious images. ``run`` measures every score of every model on outliers, on images that an
attack made to fool the model, and on images made to fool the model and the score at once. Nothing here prints or draws;
``eval.report.detection`` does the tables, ``eval.report.figures.detection`` the figures.
"""
