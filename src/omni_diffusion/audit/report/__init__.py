"""A corpus as one HTML page: figures, curves, samples to look at and listen to.

`report` puts the page together; `gallery` chooses samples and `exhibit` decodes them; `answers`
asks the named queries and `charts` draws what they say; `page.html` and `page.css` are the look.
"""
