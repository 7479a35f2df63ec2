"""Look at all machines of a session at once: profiles, stacks, variables, the diagnostic dump.

    kinds       what there is to be collected, with its options
    asking      ask all machines at once, in bounded time
    collecting  put together what they say, and note what is missing
    own         the driver's own process
    formats     pprof, folded stacks, speedscope, SVG, text
    variables   the numbers of all machines, with the last ones of those that do not answer
    watching    machines, calls and lines while somebody looks, in rows that are told again and again
    status      how machines are, as a page of text
    dump        everything in one zip file
    sight       the methods of `Session` for all this

Nothing here is imported before one of these methods is called.
"""
