"""What comes from strangers: files are bounded before they are read, texts are escaped for where they are shown.

``files`` reads JSON, YAML and arrays and says in words what is wrong with them; the schemas themselves stand beside
what they describe. ``parquet`` looks at pages before they are unpacked. ``text`` has one function per place a text can
go, ``columns`` the names that are taken.
"""
