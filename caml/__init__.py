"""caml: does a disposition mixed into pretraining last?"""
