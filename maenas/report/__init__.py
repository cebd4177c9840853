"""Results for people: text now, HTML pages later."""
