"""Tests of the CRF; a package, since an installed one of that name would come first."""
