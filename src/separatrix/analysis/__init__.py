"""Questions asked of any system: functions from a System to a Result."""
