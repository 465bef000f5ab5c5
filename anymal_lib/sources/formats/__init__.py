"""The formats in which the paper's sources come, one module each, named by a card's ``reader``.

``read(source, target)`` yields the items of a `SourceFolder`; media that a reader writes go below
``target``. Such a module has ``WRITES_MEDIA = True``.
"""
