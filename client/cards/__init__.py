"""The clinic's scorecards: kept, edited, and scored on the site's own reference plans. None of it leaves the site."""
