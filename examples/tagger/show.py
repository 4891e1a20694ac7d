def show_scores(*a): pass
