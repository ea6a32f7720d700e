"""Events: where a flow crosses a surface."""
