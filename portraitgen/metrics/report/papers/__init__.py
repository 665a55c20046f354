"""Tables of experiments of the five papers as data, each number marked as confirmed or recalled."""
