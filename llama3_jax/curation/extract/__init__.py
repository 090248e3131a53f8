"""HTML to the text of its main content, as section 3.1.1 of the paper asks: clean of boilerplate, complete in content."""
