"""PerWeight: any optimizer under rules, from the rulebook to the file."""
