"""A server that keeps one model in memory and segments what is sent to it. `jobs` knows no HTTP, `app` no network."""
