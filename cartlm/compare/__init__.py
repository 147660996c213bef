"""Two commits compared: loaded, judged, rendered."""
