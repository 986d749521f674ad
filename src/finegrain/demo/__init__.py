"""What `finegrain demo` trains and shows."""
