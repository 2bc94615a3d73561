// see bulk.cpp
