"""The console: the files of the page that operators use in a browser, served by ingest under `/console/`."""
