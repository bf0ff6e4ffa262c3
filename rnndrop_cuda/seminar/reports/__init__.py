"""What a run leaves behind to be read: result files, tables, plots and pages."""
