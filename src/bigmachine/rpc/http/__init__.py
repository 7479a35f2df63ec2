"""HTTP on the RPC port, for people, curl and other languages: JSON in and out, by the libraries h11 and h2."""
