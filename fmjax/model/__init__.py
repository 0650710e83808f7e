"""The shape alphabet: one letter an axis, in every array's name.

b rows · t positions (queries) · s positions (keys) · n tokens (rows ×
positions, flattened) · d model width · h heads · e head width · r summary
slots · f feed-forward width · v item rows · c candidates · p horizons ·
q negatives · m metadata types, terms · w values in a bag · g age buckets ·
l layers · k top-k · u users · i generic code (vocabulary) rows ·
y days of a table by day · j blocks of positions
"""
