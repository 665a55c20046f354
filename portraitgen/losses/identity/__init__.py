"""The identity loss: is the face that the network draws that of the person who should be there?"""
