"""Tables of papers: runs, published figures and tolerance. Data only."""
