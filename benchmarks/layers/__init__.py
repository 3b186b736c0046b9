"""What layers of gdp.layers save and cost; writes the figures of docs/layers.md."""
