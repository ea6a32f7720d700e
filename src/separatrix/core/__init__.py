"""What everything stands on: systems, their tangents, runs, results."""
