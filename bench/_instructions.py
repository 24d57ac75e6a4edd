def rows(results, model, source, folder):
    pass
