"""What the recipes have to find; a package, since its modules have common names."""
