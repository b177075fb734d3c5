"""Whether a server keeps to HTTP/2: the cases of h2spec, by their numbers there.

The numbers and what is asked are h2spec's, the words and the code are our own. `python -m h2spec` runs them.
"""
