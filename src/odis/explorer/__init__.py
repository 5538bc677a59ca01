"""`odis explore`: a page on this machine on which networks are asked about objects with the mouse."""
