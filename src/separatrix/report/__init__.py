"""One folder that tells what was found: a page to read, the results to load, the numbers for machines."""

from separatrix.report.folder import refuse_existing
from separatrix.report.write import write_report

__all__ = ["refuse_existing", "write_report"]
