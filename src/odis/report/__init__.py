"""`odis report`: what runs did and what their networks see, as one HTML file that opens offline."""
