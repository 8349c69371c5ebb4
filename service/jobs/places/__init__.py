"""Where a spec may point: what it names (`named`), and what may be named (`rules`)."""
