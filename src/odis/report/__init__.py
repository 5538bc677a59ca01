"""`odis report`: what runs did and what their models see, as one HTML file that opens offline."""
