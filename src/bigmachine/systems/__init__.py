"""The providers of machines that come with the library; none knows of another."""
