"""Other libraries' layers under their own names, with their own arguments: their code moves by changing its import."""
