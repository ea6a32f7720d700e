"""Where a flow crosses a surface."""
