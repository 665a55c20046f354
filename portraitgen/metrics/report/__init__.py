"""What people read of an evaluation: tables, plots, pages."""
