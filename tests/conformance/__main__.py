"""python -m tests.conformance: every case on this kernel, beside the simulated one of the same version and IOMMU."""

import sys

from tests.conformance.command import main

sys.exit(main())
