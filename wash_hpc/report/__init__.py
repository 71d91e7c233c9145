"""What people look at: tables, a page with curves, a live view. Reads run folders; computes and trains nothing."""
