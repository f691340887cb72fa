"""The page that `ie report` makes: tables in, one HTML file and a model card out."""
