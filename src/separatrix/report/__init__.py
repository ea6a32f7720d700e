"""A report in one folder: a page to read, the results to load, and the numbers in machine-readable form."""

from separatrix.report.folder import refuse_existing
from separatrix.report.write import write_report

__all__ = ["refuse_existing", "write_report"]
