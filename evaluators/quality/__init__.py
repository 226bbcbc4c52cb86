"""How well a candidate answers, item by item."""
