"""Values and elements: the typed codec, and the data managers that change and merge them."""
