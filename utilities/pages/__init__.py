"""Self-contained HTML pages: the templates' common parts, charts, and values in words."""
