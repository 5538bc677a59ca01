"""Where the bytes of an image come from: the one place that training, embedding, evaluation, inspection and
reports share.

In goes an address: the path of a file, a URI that fsspec opens, or a member of a tar shard, itself a file or
behind a URI. Out come the bytes of the whole image, or an error: a `DataError` if this image is missing or
cut off, which callers name and skip, and an `UnreachableError` if a store does not answer, which ends the
work. A file's path never comes here: it is opened where it always was.
"""
