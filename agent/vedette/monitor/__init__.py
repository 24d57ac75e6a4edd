"""Looking at agents from anywhere: what ``vedette watch`` and ``vedette top`` are made of.

Everything here comes from a broker, from whoever may publish there: it is bounded, and made harmless before it is printed.
"""
